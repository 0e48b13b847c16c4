// Command etcd is the etcd server of the version that go.mod pins. Upstream's own
// main package would be built under the name "server".
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
