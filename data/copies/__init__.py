"""Reading what people hold: folders, video files, images, in the layouts that are about."""
