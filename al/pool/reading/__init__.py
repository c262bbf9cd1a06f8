"""Raw rows out of files of every kind, streams and data sets of the hub; what cannot be read is a row of its own."""
