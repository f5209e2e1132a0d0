"""Anybody's own recordings as a dataset: `python -m data.prepare folder --name=mine --source=DIR`.

The way of a frame, from a folder of any of the known arrangements to a batch:

1. `places`: the folder is walked; videos, folders of pictures and tables have roles by their paths.
2. `names`: what belongs to one video is brought together; `splits` says which split it is in.
3. `gaze_tables`: tables become samples (viewer, time, x, y); `looking` lays them on frames.
4. `video`: a video yields its frames, with fixations made from gaze, densities from fixations.
5. `builder`: these are stored as any other dataset; `truth`: maps are scored against them unstored.
"""
