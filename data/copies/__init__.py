"""Reading users' copies of datasets: folders, video files, images, in the known layouts."""
