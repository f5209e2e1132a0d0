"""The limits that a benchmark's figures are held to, and the exit code that says whether they hold.

limits = Limits()
print(f'ratio of the times: {ratio:.2f} ({limits.check("limit 0.7", ratio <= 0.7)})')
return limits.exit_code
"""


class Limits:
    """Remembers whether one was missed; `exit_code` is then 1, else 0."""

    def __init__(self):
        self.exit_code = 0

    def check(self, limit: str, held: bool) -> str:
        """'limit 0.7: held' or 'limit 0.7: missed', and the latter is remembered."""
        if not held:
            self.exit_code = 1
        return f'{limit}: {"held" if held else "missed"}'
