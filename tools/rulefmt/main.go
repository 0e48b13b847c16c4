// Command rulefmt reads files of Prometheus rules by the package that Prometheus
// itself reads them by. promtool cannot be had: its module's go.mod has
// replacements, with which no program is installed from it.
package main

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	failed := len(os.Args) < 2
	for _, path := range os.Args[1:] {
		groups, errs := rulefmt.ParseFile(path, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
		for _, err := range errs {
			failed = true
			fmt.Fprintln(os.Stderr, err)
		}
		if groups == nil {
			continue
		}
		n := 0
		for _, g := range groups.Groups {
			n += len(g.Rules)
		}
		fmt.Printf("%s: %d rules in %d groups\n", path, n, len(groups.Groups))
		failed = failed || n == 0
	}
	if failed {
		os.Exit(1)
	}
}
