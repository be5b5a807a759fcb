"""Control of commands on any host: what this host runs is controlled here, the rest by orders to its host.

Made by the composition root where the store has orders: `any_host` for `web`, with the same protocols that the local
parts implement, and `order_executor` for the orders of others. Must not know HTTP, keepers or the database.
"""
