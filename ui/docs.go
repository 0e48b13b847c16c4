package ui

import (
	"io/fs"
	"net/url"
	"path"
	"slices"
	"strings"

	"assay/docs"
	"assay/internal/fault"
)

// runbooksPage lists the documents of this version.
func runbooksPage(*visit) (*Page, error) {
	books := &Table{Columns: columns("Runbook", "About"), Empty: "There is none."}
	others := &Table{Columns: columns("Document", "About"), Empty: "There is none."}
	err := fs.WalkDir(docs.Files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) != ".md" {
			return err
		}
		b, err := fs.ReadFile(docs.Files, name)
		if err != nil {
			return err
		}
		name = strings.TrimSuffix(name, ".md")
		row := []Cell{link(name, local("runbooks/"+name)), text(firstHeading(string(b)))}
		if strings.HasPrefix(name, "runbooks/") || name == "drills" {
			row[0].Text = strings.TrimPrefix(name, "runbooks/")
			books.Rows = append(books.Rows, row)
		} else {
			others.Rows = append(others.Rows, row)
		}
		return nil
	})
	return &Page{Title: "Runbooks", Here: "Runbooks", Sections: []Section{{ID: "runbooks", Title: "What to do when", Table: books}, {ID: "documents", Title: "Documents by task", Table: others}}}, err
}

func firstHeading(text string) string {
	for line := range strings.Lines(text) {
		if words, ok := strings.CutPrefix(line, "# "); ok {
			return strings.TrimSpace(words)
		}
	}
	return ""
}

func runbookPage(c *visit) (*Page, error) {
	name := strings.TrimSuffix(c.r.PathValue("name"), ".md")
	b, err := fs.ReadFile(docs.Files, name+".md")
	if err != nil && fs.ValidPath(name) {
		b, err = fs.ReadFile(docs.Files, "runbooks/"+name+".md")
	}
	if err != nil {
		return nil, fault.Newf(fault.NotFound, "there is no document %.80q", name)
	}
	title, html := markdown(string(b))
	if title == "" {
		title = name
	}
	s := Section{ID: "document", HTML: html}
	if u, err := url.Parse(name); err != nil || slices.Contains(strings.Split(u.Path, "/"), "..") {
		return nil, fault.Newf(fault.NotFound, "there is no document %.80q", name)
	}
	return &Page{Title: title, Here: "Runbooks", Crumbs: []Link{{"Runbooks", local("runbooks")}}, Sections: []Section{s}}, nil
}
