"""The guard on the network; imported only by `prn-guard serve`, and needs `prn-guard[server]`."""
