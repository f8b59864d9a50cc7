// Package rules decides what becomes of a call that passes a proxy: nothing, or what a rule says. It knows neither gRPC
// nor HTTP; the proxies describe each call to it and carry out its verdict. Holding and delaying it does itself.
package rules

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"sort"
	"sync"
	"time"
)

// Rule is what a test writes. Patterns match the whole text; an empty one matches everything.
type Rule struct {
	Name      string `json:"name"`
	Method    string `json:"method"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	// Nth: only the n-th call that matches, counted from 1 since the rule was set; 0: each.
	Nth int `json:"nth"`
	// Probability with which a matching call is acted on, drawn from Seed; 0 means always.
	Probability float64 `json:"probability"`
	Seed        uint64  `json:"seed"`
	// Times: at most so often; 0: without end.
	Times int `json:"times"`
	// When: "before" the call is passed on (the default), or "after" it was answered.
	When    string `json:"when"`
	Do      string `json:"do"`
	DelayMs int    `json:"delayMs"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

// What a rule can do.
const (
	Hold      = "hold"
	Delay     = "delay"
	Fail      = "fail"
	DropReply = "drop-reply"
	Cut       = "cut"
)

// The moments of a call.
const (
	Before = "before"
	After  = "after"
)

// Call is what rules look at.
type Call struct{ Method, Pod, Container string }

// Verdict is what the proxy has to do: Do is Fail, DropReply, Cut, or empty for passing the call on.
type Verdict struct{ Do, Rule, Code, Message string }

// Held is a call at its barrier.
type Held struct {
	ID        int    `json:"id"`
	Rule      string `json:"rule"`
	Method    string `json:"method"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	When      string `json:"when"`
	Since     int64  `json:"since"`
	open      chan struct{}
}

type rule struct {
	Rule
	method, pod, container *regexp.Regexp
	matched, acted         int
	random                 *rand.Rand
}

// stream is a call that lasts, and how it is cut.
type stream struct {
	call Call
	cut  func()
}

// Engine holds the rules in force, the calls that wait, and the streams that are open.
type Engine struct {
	mu      sync.Mutex
	rules   []*rule
	held    map[int]*Held
	streams map[int]stream
	next    int
}

// New returns an engine without rules.
func New() *Engine { return &Engine{held: map[int]*Held{}, streams: map[int]stream{}} }

// Opened notes a stream: a new rule that cuts calls like it cuts it as well. The caller calls `closed` at its end.
func (e *Engine) Opened(call Call, cut func()) (closed func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.next++
	id := e.next
	e.streams[id] = stream{call, cut}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.streams, id)
	}
}

func compile(r Rule) (*rule, error) {
	c := &rule{Rule: r, random: rand.New(rand.NewPCG(r.Seed, 0))}
	if c.When == "" {
		c.When = Before
	}
	if c.When != Before && c.When != After {
		return nil, fmt.Errorf("rule %q: when is %q, want before or after", r.Name, r.When)
	}
	switch r.Do {
	case Hold, Delay, Fail, Cut:
	case DropReply:
		c.When = After
	default:
		return nil, fmt.Errorf("rule %q: do is %q, want hold, delay, fail, drop-reply or cut", r.Name, r.Do)
	}
	for _, p := range []struct {
		text string
		into **regexp.Regexp
	}{{r.Method, &c.method}, {r.Pod, &c.pod}, {r.Container, &c.container}} {
		pattern, err := whole(p.text)
		if err != nil {
			return nil, fmt.Errorf("rule %q: %w", r.Name, err)
		}
		*p.into = pattern
	}
	return c, nil
}

// whole compiles a pattern of the whole text; nil for an empty one.
func whole(text string) (*regexp.Regexp, error) {
	if text == "" {
		return nil, nil
	}
	return regexp.Compile("^(?:" + text + ")$")
}

// Set puts these rules in force and no others. A rule that was in force already, unchanged, keeps its counts and its
// held calls; calls held by one that is gone go on.
func (e *Engine) Set(wanted []Rule) error {
	compiled := make([]*rule, 0, len(wanted))
	for _, w := range wanted {
		c, err := compile(w)
		if err != nil {
			return err
		}
		compiled = append(compiled, c)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	names := map[string]bool{}
	fresh := append([]*rule(nil), compiled...)
	for i, c := range compiled {
		for _, old := range e.rules {
			if old.Rule == c.Rule {
				compiled[i], fresh[i] = old, nil
				names[c.Name] = true
			}
		}
	}
	e.rules = compiled
	for id, held := range e.held {
		if !names[held.Rule] {
			e.open(id)
		}
	}
	for _, stream := range e.streams {
		for _, r := range fresh {
			if r != nil && r.Do == Cut && r.When == Before && r.wants(stream.call) {
				go stream.cut()
			}
		}
	}
	return nil
}

// Rules returns those in force.
func (e *Engine) Rules() []Rule {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := []Rule{}
	for _, r := range e.rules {
		all = append(all, r.Rule)
	}
	return all
}

// Any says whether there is a rule at all: without one nothing needs to be looked at.
func (e *Engine) Any() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.rules) > 0
}

// Held lists the calls that wait, oldest first.
func (e *Engine) Held() []Held {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := []Held{}
	for _, held := range e.held {
		all = append(all, *held)
	}
	sort.Slice(all, func(a, b int) bool { return all[a].ID < all[b].ID })
	return all
}

// Release lets calls go on: the one with this id, or those of this rule, or (neither given) all. It returns how many.
func (e *Engine) Release(id int, name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	count := 0
	for key, held := range e.held {
		if (id == 0 || id == key) && (name == "" || name == held.Rule) {
			e.open(key)
			count++
		}
	}
	return count
}

func (e *Engine) open(id int) {
	close(e.held[id].open)
	delete(e.held, id)
}

func matches(pattern *regexp.Regexp, text string) bool {
	return pattern == nil || pattern.MatchString(text)
}

func (r *rule) wants(call Call) bool {
	return matches(r.method, call.Method) && matches(r.pod, call.Pod) && matches(r.container, call.Container)
}

// pick finds the first rule that acts on the call now.
func (e *Engine) pick(when string, call Call) *rule {
	for _, r := range e.rules {
		if r.When != when || !r.wants(call) {
			continue
		}
		r.matched++
		if r.Nth != 0 && r.matched != r.Nth || r.Times != 0 && r.acted >= r.Times {
			continue
		}
		if r.Probability != 0 && r.random.Float64() >= r.Probability {
			continue
		}
		r.acted++
		return r
	}
	return nil
}

// Apply finds the rule for a call at this moment. It returns when the call may go on, and what is to become of it; with
// the context's error if the caller left meanwhile.
func (e *Engine) Apply(ctx context.Context, when string, call Call) (Verdict, error) {
	e.mu.Lock()
	r := e.pick(when, call)
	if r == nil {
		e.mu.Unlock()
		return Verdict{}, nil
	}
	verdict := Verdict{Do: r.Do, Rule: r.Name, Code: r.Code, Message: r.Message}
	if r.Do != Hold {
		e.mu.Unlock()
		if r.DelayMs > 0 {
			select {
			case <-time.After(time.Duration(r.DelayMs) * time.Millisecond):
			case <-ctx.Done():
				return verdict, ctx.Err()
			}
		}
		if r.Do == Delay {
			verdict.Do = ""
		}
		return verdict, nil
	}
	e.next++
	held := &Held{
		ID: e.next, Rule: r.Name, Method: call.Method, Pod: call.Pod, Container: call.Container, When: when,
		Since: time.Now().UnixNano(), open: make(chan struct{}),
	}
	e.held[held.ID] = held
	e.mu.Unlock()
	verdict.Do = ""
	select {
	case <-held.open:
		return verdict, nil
	case <-ctx.Done():
		e.mu.Lock()
		delete(e.held, held.ID)
		e.mu.Unlock()
		return verdict, ctx.Err()
	}
}
