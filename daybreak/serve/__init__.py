"""The server: models that answer over HTTP as OpenAI's do, and a page to play with them."""
