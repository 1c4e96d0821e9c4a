"""Files that are damaged, or made to harm, against everything that reads files."""
