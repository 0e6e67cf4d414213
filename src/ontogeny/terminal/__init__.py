"""What the commands do and print: rich tables, or JSON."""
