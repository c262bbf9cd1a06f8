"""What `import al` offers: five functions around those of `al.commands`, and their results."""
