package main

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	api "k8s.io/kubernetes/pkg/apis/core"
)

// leaves are structs that JSON writes as one value; whoever reads the layout knows them.
var leaves = map[string]bool{
	"resource.Quantity": true, "intstr.IntOrString": true, "v1.Time": true, "v1.FieldsV1": true,
}

// layout collects the types of the internal Pod, beside those of the v1 Pod that name its fields in
// JSON.
type layout struct {
	types map[string]reflect.Type
	lines []string
}

// writeLayout writes a type a line, and the fields of a struct below it: the field's name in Go,
// its name in JSON ("." when the fields of the type stand in the place of the field) and its type.
// A field that v1 has elsewhere is named after Go's name: whoever reads the layout moves it there.
func writeLayout(out io.Writer) error {
	l := &layout{types: map[string]reflect.Type{}}
	if err := l.add(reflect.TypeOf(api.Pod{}), reflect.TypeOf(v1.Pod{})); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, strings.Join(l.lines, "\n"))
	return err
}

func (l *layout) add(inner, outer reflect.Type) error {
	switch inner.Kind() {
	case reflect.Pointer, reflect.Slice:
		if inner.Name() != "" {
			return fmt.Errorf("%v is a named %v", inner, inner.Kind())
		}
		if inner.Kind() != outer.Kind() {
			return fmt.Errorf("%v is read from a %v", inner, outer)
		}
		return l.add(inner.Elem(), outer.Elem())
	case reflect.Map:
		if inner.Key().Kind() != reflect.String {
			return fmt.Errorf("the keys of %v are no strings", inner)
		}
		if l.isNew(inner, fmt.Sprintf("map[%v]%v", inner.Key(), inner.Elem())) {
			return l.add(inner.Elem(), outer.Elem())
		}
		return nil
	case reflect.Struct:
		return l.addStruct(inner, outer)
	default:
		l.isNew(inner, inner.Kind().String())
		return nil
	}
}

// isNew notes a named type and says whether it was not known.
func (l *layout) isNew(t reflect.Type, what string) bool {
	name := t.String()
	if known, ok := l.types[name]; ok {
		if known != t {
			panic(fmt.Sprintf("%s is two types", name))
		}
		return false
	}
	l.types[name] = t
	if name != what {
		l.lines = append(l.lines, fmt.Sprintf("%s %s", name, what))
	}
	return true
}

func (l *layout) addStruct(inner, outer reflect.Type) error {
	name := inner.String()
	if known, ok := l.types[name]; ok {
		if known != inner {
			return fmt.Errorf("%s is two types", name)
		}
		return nil
	}
	l.types[name] = inner
	if leaves[name] {
		return nil
	}
	if inner.NumField() == 0 {
		return fmt.Errorf("%s has no field: all pointers to it are equal", name)
	}
	l.lines = append(l.lines, name)
	type pair struct{ inner, outer reflect.Type }
	var pairs []pair
	for i := range inner.NumField() {
		field := inner.Field(i)
		json := strings.ToLower(field.Name[:1]) + field.Name[1:]
		if twin, ok := outer.FieldByName(field.Name); ok {
			tag, _, _ := strings.Cut(twin.Tag.Get("json"), ",")
			json = tag
			if tag == "" {
				json = "."
			}
			pairs = append(pairs, pair{field.Type, twin.Type})
		} else {
			pairs = append(pairs, pair{field.Type, field.Type})
		}
		l.lines = append(l.lines, fmt.Sprintf(" %s %s %v", field.Name, json, field.Type))
	}
	for _, pair := range pairs {
		if err := l.add(pair.inner, pair.outer); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
