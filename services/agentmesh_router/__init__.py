"""The router: accepts tasks, hands them to runners, and streams what happens to whoever watches."""
