package policy

import (
	"strconv"
	"strings"
)

// AddressText is an address as one text in the form of a path, which patterns
// are matched with: "tcp/192.0.2.7/443", "udp/2001:db8::1/53",
// "unix/run/docker.sock", "unix/@name".
func AddressText(protocol, address string, port int) string {
	if protocol == "unix" {
		return protocol + "/" + strings.TrimPrefix(address, "/")
	}
	return protocol + "/" + address + "/" + strconv.Itoa(port)
}
