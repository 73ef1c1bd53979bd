"""What goes in: the files of an input, its rows in blocks, and which of them a job takes."""
