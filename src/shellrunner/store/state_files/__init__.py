"""What lies beside a history in its directory on this host, and says which history it is and how far it has come."""
