"""A web server that predicts videos: `stsa-jax serve`; needs the extra `serve`.

settings   limits on what is accepted
jobs       the jobs, in folders on the disk, and their queue
work       what is made of a video
uploads    multipart bodies, straight to a file
app        addresses and answers
page/      the page for people
"""
