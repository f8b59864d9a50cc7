package main

import (
	"fmt"
	"slices"

	podutil "k8s.io/kubernetes/pkg/api/pod"
	api "k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/capabilities"
)

// writeProblems writes a case's name and, a line each and sorted, what upstream's kubelet finds
// wrong with it. A manifest that cannot be decoded has one line that says so.
func writeProblems(name string, manifest []byte) {
	capabilities.Initialize(capabilities.Capabilities{AllowPrivileged: true})
	fmt.Println("=== " + name)
	pod, err := decode(manifest)
	if err != nil {
		fmt.Println("undecodable")
		return
	}
	apply(pod)
	options := podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, nil, &pod.ObjectMeta, nil)
	var lines []string
	for _, problem := range validation.ValidatePodCreate(pod, options) {
		lines = append(lines, problem.Error())
	}
	slices.Sort(lines)
	for _, line := range lines {
		fmt.Println(line)
	}
}

// apply gives the pod what pkg/kubelet/config gives it before it is validated.
func apply(pod *api.Pod) {
	pod.UID = "0"
	pod.Name += "-n1"
	if pod.Namespace == "" {
		pod.Namespace = "default"
	}
	pod.Spec.NodeName = "n1"
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations["kubernetes.io/config.hash"] = string(pod.UID)
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, api.Toleration{Operator: "Exists", Effect: api.TaintEffectNoExecute})
	pod.Status.Phase = api.PodPending
}
