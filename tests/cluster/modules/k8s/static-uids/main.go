// Command static-uids writes what a kubelet in another language needs to give static pods the UIDs
// that upstream's gives them.
//
//	static-uids layout                 the layout of the internal Pod, see layout.go
//	static-uids uids NODE… < CASES     the UID of each case on each node
//	static-uids problems < CASES       what is wrong with each case, see problems.go
//	static-uids dump < MANIFEST        the text that is hashed, to look for a difference
//
// CASES is a text of manifests, each below a line "=== NAME". Upstream decodes, defaults and hashes
// in package pkg/kubelet/config, which does not export the steps; the three calls stand here.
package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	api "k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	"k8s.io/kubernetes/pkg/util/hash"
	"k8s.io/utils/dump"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "static-uids:", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return fmt.Errorf("layout, uids, problems or dump?")
	}
	if arguments[0] == "layout" {
		return writeLayout(os.Stdout)
	}
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "dump":
		pod, err := decode(text)
		if err != nil {
			return err
		}
		fmt.Print(dump.ForHash(pod))
		return nil
	case "problems":
		for _, section := range bytes.Split(text, []byte("=== "))[1:] {
			name, manifest, _ := bytes.Cut(section, []byte("\n"))
			writeProblems(string(name), manifest)
		}
		return nil
	case "uids":
		for _, section := range bytes.Split(text, []byte("=== "))[1:] {
			name, manifest, _ := bytes.Cut(section, []byte("\n"))
			if err := writeUIDs(string(name), manifest, arguments[1:]); err != nil {
				return err
			}
		}
		return nil
	default:
		return fmt.Errorf("%q is not known", arguments[0])
	}
}

func decode(manifest []byte) (*api.Pod, error) {
	json, err := yaml.ToJSON(manifest)
	if err != nil {
		return nil, err
	}
	object, err := runtime.Decode(legacyscheme.Codecs.UniversalDecoder(), json)
	if err != nil {
		return nil, err
	}
	pod, ok := object.(*api.Pod)
	if !ok {
		return nil, fmt.Errorf("a %T", object)
	}
	return pod, nil
}

// writeUIDs writes one line for each node, and one for a pod from a URL.
func writeUIDs(name string, manifest []byte, nodes []string) error {
	pod, err := decode(manifest)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	line := func(node, from string) {
		hasher := fnv.New128a()
		hash.DeepHashObject(hasher, pod)
		fmt.Fprint(hasher, from)
		fmt.Println(name, node, hex.EncodeToString(hasher.Sum(nil)))
	}
	for _, node := range nodes {
		line(node, fmt.Sprintf("host:%sfile:/etc/kubernetes/manifests/%s", node, name))
	}
	line("-", "url:http://manifests.test/"+strings.TrimSpace(name))
	return nil
}
