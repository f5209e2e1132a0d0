"""Users' own recordings as a dataset: `python -m data.prepare folder --name=mine --source=DIR`.

From a folder in any of the known layouts to a batch:

1. `places`: walks the folder; videos, image folders and tables get roles from their paths.
2. `names`: groups the files of each video; `splits` assigns it to a split.
3. `gaze_tables`: reads tables into samples (viewer, time, x, y); `looking` maps them to frames.
4. `video`: yields frames, with fixations made from gaze and densities from fixations.
5. `builder`: these are stored as any other dataset; `truth`: maps are scored against them unstored.
"""
