"""Many images explained, and the HTML page that shows them."""
