"""Sound files of every format as blocks of samples, all of what a file holds."""
