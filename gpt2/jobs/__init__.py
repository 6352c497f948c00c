"""Jobs from files: lines of requests in, lines of results out, resumable after a kill at any moment."""
