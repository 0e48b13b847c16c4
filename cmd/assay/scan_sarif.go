package main

import (
	"fmt"
	"io"
	"strings"

	"assay/client"
)

// SARIF 2.1.0, as much of it as code scanning reads.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool        sarifTool         `json:"tool"`
		Results     []sarifResult     `json:"results"`
		Invocations []sarifInvocation `json:"invocations"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"semanticVersion,omitempty"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID         string         `json:"id"`
		Short      sarifText      `json:"shortDescription"`
		Properties map[string]any `json:"properties,omitempty"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID       string             `json:"ruleId"`
		Level        string             `json:"level"`
		Message      sarifText          `json:"message"`
		Locations    []sarifLocation    `json:"locations"`
		Fingerprints map[string]string  `json:"partialFingerprints"`
		Suppressions []sarifSuppression `json:"suppressions,omitempty"`
	}
	// Why a result counts for nothing (SARIF 2.1.0, 3.35).
	sarifSuppression struct {
		Kind          string `json:"kind"`
		Status        string `json:"status"`
		Justification string `json:"justification"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
		} `json:"physicalLocation"`
	}
	sarifInvocation struct {
		Successful bool        `json:"executionSuccessful"` // false: something is not known
		Notes      []sarifNote `json:"toolExecutionNotifications,omitempty"`
	}
	sarifNote struct {
		Level   string    `json:"level"`
		Message sarifText `json:"message"`
	}
)

func writeSARIF(w io.Writer, target string, got *client.Findings) error {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "assay", Rules: []sarifRule{}}}, Results: []sarifResult{}}
	rules := map[string]bool{}
	for _, i := range got.Items {
		if !rules[i.Name] {
			rules[i.Name] = true
			rule := sarifRule{ID: i.Name, Short: sarifText{or(i.Summary, i.Name)}, Properties: map[string]any{"tags": []string{"security", "vulnerability"}}}
			if i.Score > 0 {
				rule.Properties["security-severity"] = fmt.Sprintf("%.1f", i.Score)
			}
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, rule)
		}
		level := "warning"
		switch {
		case i.Settled():
			level = "none"
		case i.Malicious || severityRank[i.Severity] >= severityRank["high"]:
			level = "error"
		case i.Status != "affected":
			level = "note"
		}
		mend := "no version mends it"
		if i.Fixed != "" {
			mend = "mended by " + i.Fixed
		}
		r := sarifResult{RuleID: i.Name, Level: level, Message: sarifText{fmt.Sprintf("%s is %s by %s (%s); %s.", i.Component, i.Status, i.Name, i.Severity, mend)},
			Fingerprints: map[string]string{"assay/v1": i.Name + "|" + i.Component}}
		var at sarifLocation
		at.Physical.Artifact.URI = target
		r.Locations = []sarifLocation{at}
		if s := i.Statement; i.Settled() && s != nil {
			r.Suppressions = []sarifSuppression{{Kind: "external", Status: "accepted", Justification: strings.Join([]string{s.ID, s.Author, s.Justification, s.Impact}, "; ")}}
		}
		run.Results = append(run.Results, r)
	}
	inv := sarifInvocation{Successful: got.Coverage.Complete()}
	for _, u := range unknowns(got.Coverage) {
		inv.Notes = append(inv.Notes, sarifNote{"warning", sarifText{u}})
	}
	run.Invocations = []sarifInvocation{inv}
	b, err := plainJSON(sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}, "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
