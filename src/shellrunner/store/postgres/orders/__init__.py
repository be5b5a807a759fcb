"""Orders between hosts, in the table `orders`, and what hosts say of the commands that they run, in `commands`."""
