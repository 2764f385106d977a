"""The line: camera, scorer, guard, and what is recorded of every part."""
