"""The objects of Stripe, one module a noun. Importing the package puts all routes in place."""
