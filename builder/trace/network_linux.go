//go:build amd64 || arm64

package trace

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// network is what is known of addresses.
type network struct {
	t     *tracer
	seen  map[place]*Connection
	names map[string]bool
	cut   bool
}

// place is an address, as a key.
type place struct {
	protocol, address string
	port              int
}

// peer is the addresses that a call named in the program's memory, and where
// they stand there.
type peer struct {
	at    []uint64 // of the addresses
	sizes []int
	raw   []string // what stood there before the call
	names []string // asked of a name server
}

func newNetwork(t *tracer) *network {
	return &network{t: t, seen: map[place]*Connection{}, names: map[string]bool{}}
}

// Sizes of struct msghdr and struct mmsghdr on 64-bit machines, and the most
// messages of a sendmmsg that are looked at (UIO_MAXIOV).
const (
	msghdrSize  = 56
	mmsghdrSize = 64
	maxMessages = 1024
	maxSockaddr = 128
)

// given reads what the program gives to a call; nil when it names no address.
func (n *network) given(tid int, c *call) *peer {
	p := &peer{}
	switch c.nr {
	case unix.SYS_CONNECT:
		p.add(tid, c.args[1], c.args[2])
	case unix.SYS_SENDTO:
		p.add(tid, c.args[4], c.args[5])
		p.query(tid, c.args[1], c.args[2], p.lastPort())
	case unix.SYS_SENDMSG:
		p.message(tid, read(tid, c.args[1], make([]byte, msghdrSize)), int(c.args[0]))
	case unix.SYS_SENDMMSG:
		count := min(c.args[2], maxMessages)
		b := read(tid, c.args[1], make([]byte, count*mmsghdrSize))
		for ; len(b) >= mmsghdrSize; b = b[mmsghdrSize:] {
			p.message(tid, b[:msghdrSize], int(c.args[0]))
		}
	}
	for _, name := range p.names {
		if len(n.names) < maxNames {
			n.names[name] = true
		} else {
			n.cut = true
		}
	}
	if len(p.at) == 0 {
		return nil
	}
	return p
}

// add takes the address at a place.
func (p *peer) add(tid int, at, size uint64) {
	if at == 0 || size == 0 {
		return
	}
	n := int(min(size, maxSockaddr))
	p.at, p.sizes = append(p.at, at), append(p.sizes, n)
	p.raw = append(p.raw, string(read(tid, at, make([]byte, n))))
}

// message takes the address of a struct msghdr, and what it asks of a name
// server: sent to an address, or on a socket that is connected to one.
func (p *peer) message(tid int, h []byte, fd int) {
	if len(h) < msghdrSize {
		return
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(h[i:]) }
	port := 0
	if name := word(0); name != 0 {
		p.add(tid, name, uint64(binary.LittleEndian.Uint32(h[8:])))
		port = p.lastPort()
	} else if _, where, ok := socketPeer(tid, fd); ok {
		port = where.port
	}
	if iov := read(tid, word(16), make([]byte, 16)); port == 53 && len(iov) == 16 {
		p.query(tid, binary.LittleEndian.Uint64(iov), binary.LittleEndian.Uint64(iov[8:]), port)
	}
}

func (p *peer) lastPort() int {
	if len(p.raw) == 0 {
		return 0
	}
	_, port, _ := sockaddr(p.raw[len(p.raw)-1])
	return port
}

// query takes the name that a DNS message asks for (RFC 1035, 4.1).
func (p *peer) query(tid int, at, size uint64, port int) {
	if port != 53 {
		return
	}
	if name := questionName(read(tid, at, make([]byte, min(size, 512)))); name != "" {
		p.names = append(p.names, name)
	}
}

// questionName gives the first question's name of a DNS query, or "".
func questionName(b []byte) string {
	if len(b) < 17 || b[2]&0x80 != 0 || binary.BigEndian.Uint16(b[4:]) == 0 {
		return ""
	}
	var labels []string
	for rest := b[12:]; ; {
		if len(rest) == 0 {
			return ""
		}
		n := int(rest[0])
		if n == 0 {
			break
		}
		if n > 63 || len(rest) < 1+n {
			return ""
		}
		for _, c := range rest[1 : 1+n] {
			if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return ""
			}
		}
		labels, rest = append(labels, string(rest[1:1+n])), rest[1+n:]
	}
	name := strings.ToLower(strings.Join(labels, "."))
	if len(name) > 253 {
		return ""
	}
	return name
}

// sockaddr reads an address; ok is false for a family that leads nowhere
// (AF_UNSPEC, netlink).
func sockaddr(raw string) (address string, port int, ok bool) {
	b := []byte(raw)
	if len(b) < 2 {
		return "", 0, false
	}
	switch binary.LittleEndian.Uint16(b) {
	case unix.AF_INET:
		if len(b) < 8 {
			return "", 0, false
		}
		return netip.AddrFrom4([4]byte(b[4:8])).String(), int(binary.BigEndian.Uint16(b[2:])), true
	case unix.AF_INET6:
		if len(b) < 24 {
			return "", 0, false
		}
		return netip.AddrFrom16([16]byte(b[8:24])).Unmap().String(), int(binary.BigEndian.Uint16(b[2:])), true
	case unix.AF_UNIX:
		path := string(b[2:])
		if abstract, is := strings.CutPrefix(path, "\x00"); is {
			return "@" + abstract, 0, true
		}
		path, _, _ = strings.Cut(path, "\x00")
		return path, 0, path != ""
	case unix.AF_NETLINK, unix.AF_UNSPEC, unix.AF_ALG:
		return "", 0, false
	default:
		return "address family", int(binary.LittleEndian.Uint16(b)), true
	}
}

// reached looks at a call that has been made. A blocking connect has a
// connected socket now, which tells its address itself.
func (n *network) reached(tid int, c *call, result int64) {
	failed := result < 0 && result != -int64(unix.EINPROGRESS) && result != -int64(unix.EAGAIN) && result != -int64(unix.EALREADY) && result != -int64(unix.EISCONN)
	protocol, where, connected := socketPeer(tid, int(c.args[0]))
	if c.nr == unix.SYS_CONNECT && connected && result == 0 {
		if where.protocol != "" {
			n.enter(where, false, false)
		}
		return
	}
	for i, at := range c.peer.at {
		raw := c.peer.raw[i]
		if after := string(read(tid, at, make([]byte, c.peer.sizes[i]))); after != raw {
			n.t.gap("an address was changed while the kernel read it")
		}
		address, port, ok := sockaddr(raw)
		if !ok {
			continue
		}
		if address == "address family" {
			protocol = "other"
		}
		if protocol == "unix" && failed {
			continue // no such socket: nothing was reached, and C libraries try some
		}
		n.enter(place{protocol, address, port}, failed, true)
	}
}

func (n *network) enter(p place, failed, argument bool) {
	p.address = printable(p.address)
	c := n.seen[p]
	if c == nil {
		if len(n.seen) >= maxConnections {
			n.cut = true
			return
		}
		c = &Connection{Protocol: p.protocol, Address: p.address, Port: p.port, Failed: true}
		n.seen[p] = c
	}
	c.Count++
	c.Failed = c.Failed && failed
	c.Argument = c.Argument || argument
}

// printable keeps a socket's name one line of text.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return '?'
		}
		return r
	}, s)
}

// socketPeer asks a tracee's socket what it is and whom it is connected to, by a
// descriptor of our own to the same socket (pidfd_getfd(2), Linux 5.6).
func socketPeer(tid, fd int) (protocol string, where place, connected bool) {
	protocol = "socket"
	own, err := borrow(tid, fd)
	if err != nil {
		return protocol, place{}, false
	}
	defer unix.Close(own)
	domain, _ := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_DOMAIN)
	kind, _ := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_TYPE)
	number, _ := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	switch {
	case domain == unix.AF_UNIX:
		protocol = "unix"
	case number == unix.IPPROTO_TCP || number == unix.IPPROTO_MPTCP:
		protocol = "tcp"
	case number == unix.IPPROTO_UDP:
		protocol = "udp"
	case kind == unix.SOCK_RAW:
		protocol = "raw"
	}
	sa, err := unix.Getpeername(own)
	if err != nil {
		return protocol, place{}, false
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		where = place{protocol, netip.AddrFrom4(a.Addr).String(), a.Port}
	case *unix.SockaddrInet6:
		where = place{protocol, netip.AddrFrom16(a.Addr).Unmap().String(), a.Port}
	case *unix.SockaddrUnix:
		where = place{protocol, a.Name, 0}
	}
	return protocol, where, true
}

// borrow gives a descriptor to a socket of a stopped thread. A pidfd is of a
// process, whose number is that of its first thread.
func borrow(tid, fd int) (int, error) {
	pidfd, err := unix.PidfdOpen(tid, 0)
	if err != nil {
		b, rerr := os.ReadFile(proc(tid, "/status"))
		_, rest, ok := strings.Cut(string(b), "\nTgid:")
		group, _, _ := strings.Cut(rest, "\n")
		pid, perr := strconv.Atoi(strings.TrimSpace(group))
		if rerr != nil || !ok || perr != nil {
			return -1, err
		}
		if pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
			return -1, err
		}
	}
	defer unix.Close(pidfd)
	return unix.PidfdGetfd(pidfd, fd, 0)
}

func (n *network) report(l *Log) {
	for _, c := range n.seen {
		l.Connections = append(l.Connections, *c)
	}
	slices.SortFunc(l.Connections, func(a, b Connection) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	for name := range n.names {
		l.Names = append(l.Names, name)
	}
	slices.Sort(l.Names)
	l.Truncated = l.Truncated || n.cut
}
