"""Write docs/reference/commands.md from the program itself: `python -m ohlcv_assets_tests.docs.write_commands`.

Lives here: the writing. Does not: what stands on the page (program.py). A test compares the page with what this would write.
"""

from ohlcv_assets_tests.docs.program import COMMANDS_PAGE, commands_page

if __name__ == "__main__":
    COMMANDS_PAGE.write_text(commands_page(), "utf-8")
