package main

import (
	"encoding/json"
	"net/http"
	"strings"

	"rkubelet/proxies/rules"
)

// describe says what a request is, as rules name it: `patch pods/status`, `watch configmaps`, `create events`,
// `update leases`, or `get /healthz`; and the namespace/name of its object.
func describe(r *http.Request) rules.Call {
	verb := map[string]string{
		http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch",
		http.MethodDelete: "delete",
	}[r.Method]
	if verb == "" {
		verb = strings.ToLower(r.Method)
	}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		parts = parts[3:]
	default:
		return rules.Call{Method: verb + " " + r.URL.Path}
	}
	namespace := ""
	if len(parts) >= 3 && parts[0] == "namespaces" {
		namespace, parts = parts[1], parts[2:]
	}
	resource, name := parts[0], ""
	if len(parts) > 1 {
		name = parts[1]
	}
	query := r.URL.Query()
	if verb == "get" && name == "" {
		verb = "list"
	}
	if field, found := strings.CutPrefix(query.Get("fieldSelector"), "metadata.name="); found && name == "" {
		name = field
	}
	if watch := query.Get("watch"); watch == "true" || watch == "1" {
		verb = "watch"
	}
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	return rules.Call{Method: verb + " " + resource, Pod: namespace + "/" + name}
}

// objectOf reads namespace/name of the object in one event of a watch.
func objectOf(line []byte) string {
	var event struct {
		Object struct {
			Metadata struct{ Namespace, Name string }
		}
	}
	if json.Unmarshal(line, &event) != nil {
		return ""
	}
	return event.Object.Metadata.Namespace + "/" + event.Object.Metadata.Name
}

// render shows bodies that are JSON; others are left out.
func render(_ string, request, response []byte) (json.RawMessage, json.RawMessage) {
	one := func(body []byte) json.RawMessage {
		if len(body) == 0 || !json.Valid(body) {
			return nil
		}
		return body
	}
	return one(request), one(response)
}
