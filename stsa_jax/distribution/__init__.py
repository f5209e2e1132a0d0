"""Multiple devices and processes: the mesh, shardings, and detection of the launcher."""
