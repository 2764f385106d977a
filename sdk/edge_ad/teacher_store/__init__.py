"""Teachers by name: those that come with edge-ad, and those fetched into the user's cache."""
