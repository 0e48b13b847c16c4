package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"

	"assay/client"
	"assay/identity"
	"assay/internal/fault"
	"assay/sbom"
)

// maxUpload bounds a bill of materials that is handed in, in base64.
const maxUpload = 64 << 20

const formType = "multipart/form-data"

// bomRoutes are those of Dependency-Track's interface that hands in bills of
// materials (https://docs.dependencytrack.org/usage/cicd/), so that jobs which do
// stay as they are.
func (a *API) bomRoutes() []Route {
	return []Route{
		{Method: "PUT", Path: "/api/v1/bom", Summary: "Hand in a bill of materials as clients of Dependency-Track do, in base64; the token also as X-Api-Key. Nobody signed it: it is evidence of nothing", Action: identity.ActWriteEvidence,
			In: client.BOMUpload{}, Out: client.BOMToken{}, Status: 200, handle: a.putBOM},
		{Method: "POST", Path: "/api/v1/bom", Summary: "The same as a form: projectName, projectVersion, and bom as a file", Action: identity.ActWriteEvidence,
			In: RawBytes{formType}, Out: client.BOMToken{}, Status: 200, handle: a.postBOM},
		{Method: "GET", Path: "/api/v1/bom/token/{token}", Summary: "Is what was handed in still being looked up?", Action: identity.ActReadEvidence, Out: client.BOMState{}, Status: 200, handle: a.bomState},
	}
}

// somebody refuses nobody in particular before a large body is read: whom it is for
// stands in it.
func somebody(r *http.Request) error {
	if identity.FromContext(r.Context()).IsAnonymous() {
		return fault.Newf(fault.Unauthenticated, "want a token, as Authorization: Bearer or X-Api-Key")
	}
	return nil
}

func (a *API) putBOM(w http.ResponseWriter, r *http.Request) {
	if err := somebody(r); err != nil {
		a.fail(w, r, err)
		return
	}
	var u client.BOMUpload
	b, err := body(w, r, maxUpload)
	if err == nil {
		// Dependency-Track's own clients send more members than are used here.
		err = json.Unmarshal(b, &u)
		if err != nil {
			err = fault.Newf(fault.Invalid, "request: %w", err)
		}
	}
	var document []byte
	if err == nil {
		if document, err = base64.StdEncoding.DecodeString(u.BOM); err != nil {
			err = fault.Newf(fault.Invalid, "bom: want the document in base64: %w", err)
		}
	}
	a.takeBOM(w, r, u, document, err)
}

func (a *API) postBOM(w http.ResponseWriter, r *http.Request) {
	if err := somebody(r); err != nil {
		a.fail(w, r, err)
		return
	}
	var u client.BOMUpload
	var document []byte
	err := func() error {
		if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != formType {
			return fault.Newf(fault.Invalid, "Content-Type %.80q: want %s", r.Header.Get("Content-Type"), formType)
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxUpload)
		form, err := r.MultipartReader()
		if err != nil {
			return fault.Newf(fault.Invalid, "form: %w", err)
		}
		for {
			part, err := form.NextPart()
			if errors.Is(err, io.EOF) {
				return nil
			}
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				return fault.Newf(fault.TooLarge, "the request is larger than %d bytes", maxUpload)
			}
			if err != nil {
				return fault.Newf(fault.Invalid, "form: %w", err)
			}
			most := int64(4 * sbom.MaxProject)
			if part.FormName() == "bom" {
				most = maxUpload
			}
			b, err := io.ReadAll(io.LimitReader(part, most))
			if err != nil {
				return fault.Newf(fault.Invalid, "form: %w", err)
			}
			switch part.FormName() {
			case "bom":
				document = b
			case "projectName":
				u.ProjectName = string(b)
			case "projectVersion":
				u.ProjectVersion = string(b)
			case "project":
				u.Project = string(b)
			}
		}
	}()
	// curl -F bom=@file sends the document as it is, some clients in base64.
	if plain, bad := base64.StdEncoding.DecodeString(string(document)); err == nil && bad == nil && len(plain) > 0 {
		document = plain
	}
	a.takeBOM(w, r, u, document, err)
}

// takeBOM keeps what was handed in. Whether a project is to be made is for grants
// to say, by its name: autoCreate adds nothing to that.
func (a *API) takeBOM(w http.ResponseWriter, r *http.Request, u client.BOMUpload, document []byte, err error) {
	out := client.BOMToken{}
	numbered := u.ProjectName == "" && u.Project != "" && !identity.FromContext(r.Context()).IsAnonymous()
	if denied := a.allow(r, identity.ActWriteEvidence, identity.ResourceEvidence, u.ProjectName); denied != nil && !numbered {
		err = denied // whatever else is wrong is not a stranger's to know
	}
	switch {
	case err != nil:
	case numbered:
		err = fault.Newf(fault.Invalid, "project %.40q: projects are known by projectName and projectVersion here, not by Dependency-Track's own numbers", u.Project)
	case u.ProjectName == "":
		err = fault.Newf(fault.Invalid, "want projectName")
	case len(document) == 0:
		err = fault.Newf(fault.Invalid, "want bom, the document")
	default:
		out.Token, _, err = a.o.SBOMs.Upload(r.Context(), sbom.Upload{Project: u.ProjectName, Version: u.ProjectVersion, Uploader: identity.FromContext(r.Context()).Actor(), Document: document})
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}

func (a *API) bomState(w http.ResponseWriter, r *http.Request) {
	project, document, err := a.o.SBOMs.Uploaded(r.Context(), r.PathValue("token"))
	if denied := a.allow(r, identity.ActReadEvidence, identity.ResourceEvidence, project); denied != nil {
		err = denied
	}
	out := client.BOMState{}
	if err == nil {
		var done bool
		done, err = a.o.Vulnerabilities.Findings.Scanned(r.Context(), document)
		out.Processing = !done
	}
	if err != nil {
		a.fail(w, r, err)
		return
	}
	WriteJSON(w, http.StatusOK, out)
}
