package ui

import (
	"html/template"
	"regexp"
	"strings"
)

// The part of Markdown that our own documents use. It makes no link to other
// hosts, and no markup but its own: all text is escaped.

var (
	mdCode  = regexp.MustCompile("`([^`]+)`")
	mdBold  = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	mdEm    = regexp.MustCompile(`(^|[\s(])\*([^*\s][^*]*)\*`)
	mdLink  = regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`)
	mdItem  = regexp.MustCompile(`^(\s*)([-*]|[0-9]+\.) (.*)$`)
	mdTable = regexp.MustCompile(`^\|?[\s:|-]+\|[\s:|-]*$`)
)

// markdown renders a document. Its first heading is left out and given apart.
func markdown(text string) (title string, html template.HTML) {
	var b strings.Builder
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	for i := 0; i < len(lines); {
		line := lines[i]
		switch trimmed := strings.TrimSpace(line); {
		case trimmed == "":
			i++
		case strings.HasPrefix(trimmed, "```"):
			i = mdFence(&b, lines, i)
		case strings.HasPrefix(line, "#"):
			level := len(line) - len(strings.TrimLeft(line, "#"))
			words := strings.TrimSpace(line[level:])
			i++
			if level == 1 && title == "" {
				title = words
				continue
			}
			tag := "h" + string(rune('0'+min(max(level, 2), 4)))
			b.WriteString("<" + tag + ">" + inlineMarkdown(words) + "</" + tag + ">\n")
		case strings.HasPrefix(trimmed, "|") && i+1 < len(lines) && mdTable.MatchString(strings.TrimSpace(lines[i+1])):
			i = mdRows(&b, lines, i)
		case mdItem.MatchString(line):
			i = mdList(&b, lines, i)
		default:
			i = mdParagraph(&b, lines, i)
		}
	}
	return title, template.HTML(b.String()) //nolint:gosec // every text in it is escaped
}

func mdFence(b *strings.Builder, lines []string, i int) int {
	b.WriteString(`<pre tabindex="0"><code>`)
	for i++; i < len(lines) && !strings.HasPrefix(strings.TrimSpace(lines[i]), "```"); i++ {
		b.WriteString(template.HTMLEscapeString(lines[i]) + "\n")
	}
	b.WriteString("</code></pre>\n")
	return i + 1
}

func mdParagraph(b *strings.Builder, lines []string, i int) int {
	var words []string
	for ; i < len(lines); i++ {
		t := strings.TrimSpace(lines[i])
		if t == "" || strings.HasPrefix(t, "```") || strings.HasPrefix(t, "#") || len(words) > 0 && mdItem.MatchString(lines[i]) {
			break
		}
		words = append(words, strings.TrimPrefix(t, "> "))
	}
	b.WriteString("<p>" + inlineMarkdown(strings.Join(words, " ")) + "</p>\n")
	return i
}

func mdList(b *strings.Builder, lines []string, i int) int {
	first := mdItem.FindStringSubmatch(lines[i])
	tag, depth := "ul", len(first[1])
	if first[2] != "-" && first[2] != "*" {
		tag = "ol"
	}
	b.WriteString("<" + tag + ">\n")
	for i < len(lines) {
		m := mdItem.FindStringSubmatch(lines[i])
		if m == nil || len(m[1]) < depth {
			break
		}
		if len(m[1]) > depth { // below the item before, which is closed late by browsers' rules
			i = mdList(b, lines, i)
			continue
		}
		words := []string{m[3]}
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "" && strings.HasPrefix(lines[i], " ") && !mdItem.MatchString(lines[i]) && !strings.HasPrefix(strings.TrimSpace(lines[i]), "```"); i++ {
			words = append(words, strings.TrimSpace(lines[i]))
		}
		b.WriteString("<li>" + inlineMarkdown(strings.Join(words, " ")))
		if i < len(lines) {
			if n := mdItem.FindStringSubmatch(lines[i]); n != nil && len(n[1]) > depth {
				b.WriteString("\n")
				i = mdList(b, lines, i)
			}
		}
		b.WriteString("</li>\n")
		for i+1 < len(lines) && strings.TrimSpace(lines[i]) == "" && mdItem.MatchString(lines[i+1]) {
			i++
		}
	}
	b.WriteString("</" + tag + ">\n")
	return i
}

func mdRows(b *strings.Builder, lines []string, i int) int {
	cells := func(line string) []string {
		line = strings.ReplaceAll(strings.Trim(strings.TrimSpace(line), "|"), `\|`, "\x00")
		parts := strings.Split(line, "|")
		for n := range parts {
			parts[n] = inlineMarkdown(strings.TrimSpace(strings.ReplaceAll(parts[n], "\x00", "|")))
		}
		return parts
	}
	b.WriteString(`<div class="scroll" role="region" tabindex="0" aria-label="Table"><table><thead><tr>`)
	for _, c := range cells(lines[i]) {
		if c == "" {
			b.WriteString("<td></td>")
			continue
		}
		b.WriteString(`<th scope="col">` + c + "</th>")
	}
	b.WriteString("</tr></thead><tbody>\n")
	for i += 2; i < len(lines) && strings.HasPrefix(strings.TrimSpace(lines[i]), "|"); i++ {
		b.WriteString("<tr>")
		for _, c := range cells(lines[i]) {
			b.WriteString("<td>" + c + "</td>")
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</tbody></table></div>\n")
	return i
}

// inlineMarkdown renders what stands within a line.
func inlineMarkdown(s string) string {
	// Code first: nothing in it is markup.
	var codes []string
	s = mdCode.ReplaceAllStringFunc(s, func(m string) string {
		codes = append(codes, "<code>"+template.HTMLEscapeString(m[1:len(m)-1])+"</code>")
		return "\x00"
	})
	s = template.HTMLEscapeString(strings.ReplaceAll(s, "\x00", "\uE000"))
	s = mdLink.ReplaceAllStringFunc(s, func(m string) string {
		parts := mdLink.FindStringSubmatch(m)
		words, to := parts[1], parts[2]
		file, fragment, _ := strings.Cut(to, "#")
		name, isDoc := strings.CutSuffix(file, ".md")
		if !isDoc || strings.ContainsAny(name, ":&\"'<>\\") || strings.HasPrefix(name, "../") || strings.Contains(name, "//") {
			return words // elsewhere: the words are enough
		}
		if fragment != "" {
			fragment = "#" + template.URLQueryEscaper(fragment)
		}
		return `<a href="` + root + "runbooks/" + name + fragment + `">` + words + "</a>"
	})
	s = mdBold.ReplaceAllString(s, "<strong>$1</strong>")
	s = mdEm.ReplaceAllString(s, "$1<em>$2</em>")
	for _, c := range codes {
		s = strings.Replace(s, "\uE000", c, 1)
	}
	return s
}
