"""The limits for a benchmark's results, and the exit code that says whether they are met.

limits = Limits()
print(f'ratio of the times: {ratio:.2f} ({limits.check("limit 0.7", ratio <= 0.7)})')
return limits.exit_code
"""


class Limits:
    """Records whether a limit was missed; `exit_code` is then 1, else 0."""

    def __init__(self):
        self.exit_code = 0

    def check(self, limit: str, held: bool) -> str:
        """'limit 0.7: held' or 'limit 0.7: missed', and records the latter."""
        if not held:
            self.exit_code = 1
        return f'{limit}: {"held" if held else "missed"}'
