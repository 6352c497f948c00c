"""Where two paths part, and which known cause explains it."""
