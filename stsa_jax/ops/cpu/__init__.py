"""What a CPU needs in place of the plain operations, and how its memory is kept."""
