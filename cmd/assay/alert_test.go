package main

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"assay/alert"
)

// typable says what is wrong with a command that somebody is told to type: it is
// there, with these flags, and takes so many arguments.
func typable(text string) error {
	words, err := split(text)
	if err != nil {
		return err
	}
	root := newRoot(&app{stdout: io.Discard, stderr: io.Discard})
	cmd, args, err := root.Find(words[1:])
	if err == nil && (cmd == root || !cmd.Runnable()) {
		err = errors.New("no command")
	}
	if err == nil {
		err = cmd.ParseFlags(args)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err == nil {
		err = cmd.ValidateRequiredFlags()
	}
	return err
}

// split parts a command at its blanks, quotes kept together.
func split(text string) (words []string, err error) {
	quote, word := rune(0), ""
	for _, r := range text + " " {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote == 0 && r == ' ':
			if word != "" {
				words = append(words, word)
			}
			word = ""
		default:
			word += string(r)
		}
	}
	if quote != 0 || len(words) == 0 {
		return nil, errors.New("an open quote, or nothing")
	}
	return words, nil
}

// TestAlertCommands: what an alert says to type can be typed.
func TestAlertCommands(t *testing.T) {
	for _, r := range alert.Rules() {
		if err := typable(r.Command); err != nil {
			t.Errorf("rule %s: %q cannot be typed: %v", r.ID, r.Command, err)
		}
	}
}

var typedRE = regexp.MustCompile("`(assay [^`]+)`")

// TestRunbookCommands: so can what a runbook says; a name in capitals stands for
// what the reader has.
func TestRunbookCommands(t *testing.T) {
	files, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	n := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range typedRE.FindAllStringSubmatch(strings.Join(strings.Fields(string(b)), " "), -1) {
			n++
			one, _, _ := strings.Cut(m[1], " | ")
			if err := typable(one); err != nil {
				t.Errorf("%s: %q cannot be typed: %v", filepath.Base(f), m[1], err)
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d commands", n)
	}
}
