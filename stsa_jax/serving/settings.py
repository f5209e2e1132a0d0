"""What the server accepts."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the server; a request beyond one is refused with the reason.

    Attributes:
        upload_bytes: of one video file.
        seconds: of one video, or of the part of it that is asked for.
        pixels: of one frame.
        disk_bytes: of all jobs together. A job is accepted if the upload, and as much again for
            its results, still fits.
        jobs: waiting and running ones.
    """

    upload_bytes: int = 500_000_000
    seconds: float = 600.0
    pixels: int = 4096 * 2304
    disk_bytes: int = 20_000_000_000
    jobs: int = 100
