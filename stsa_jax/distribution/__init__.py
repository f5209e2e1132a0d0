"""Many devices and many processes: the mesh, what lies where, who launched whom."""
