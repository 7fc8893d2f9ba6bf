"""Write docs/reference/client.md from the client itself: `python -m ohlcv_assets_tests.docs.write_client`.

Lives here: the writing. Does not: what stands on the page (client_page.py). A test compares the page with what this would write.
"""

from ohlcv_assets_tests.docs.client_page import CLIENT_PAGE, client_page

if __name__ == "__main__":
    CLIENT_PAGE.write_text(client_page(), "utf-8")
