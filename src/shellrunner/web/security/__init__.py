"""Who may ask for what: origin checks, authentication, ownership and the audit log."""
