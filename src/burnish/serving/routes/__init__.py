"""The routes, each file one part of the API; `app.py` puts them together."""
