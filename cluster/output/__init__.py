"""What comes out: the columns, the files, the commits by which they count, and how they are read back."""
