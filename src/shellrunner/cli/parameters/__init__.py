"""Arguments and options that several verbs share: their types, their help, and what a shell completes for them."""
