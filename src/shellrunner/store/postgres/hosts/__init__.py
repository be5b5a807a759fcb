"""The nodes of a cluster: their leases, which of them live, and how jobs end whose node does not."""
