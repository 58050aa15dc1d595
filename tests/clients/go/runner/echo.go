package main

import (
	"math"
	"strconv"
	"time"

	runnerv1 "agentmesh/api/runner/v1"
	taskv1 "agentmesh/api/task/v1"
	typesv1 "agentmesh/api/types/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"
)

// These bounds keep what all slots hold, for a router that acknowledges nothing, below a message's 4 MiB.
const (
	maxPromptBytes = 512
	maxCount       = 1000
	maxDelayMs     = 1000 // also how long an agent may take to notice that it was stopped
)

var agents = []*taskv1.Agent{{
	Name: "go_echo", Version: "1.0.0", Description: "Says the prompt count times.", Serving: true,
	ParametersSchema: object(map[string]any{
		"type": "object",
		"properties": map[string]any{
			"count":    map[string]any{"type": "integer", "minimum": 1, "maximum": maxCount, "default": 1},
			"delay_ms": map[string]any{"type": "integer", "minimum": 0, "maximum": maxDelayMs, "default": 0},
		},
		"additionalProperties": false,
	}),
}}

func object(fields map[string]any) *structpb.Struct {
	made, err := structpb.NewStruct(fields)
	if err != nil {
		panic(err)
	}
	return made
}

// echo is the agent: it goes on as long as say answers true, and ends with an outcome.
func echo(spec *taskv1.TaskSpec, say func(*runnerv1.EventBatch) bool) {
	count, countFits := integer(spec, "count", 1, 1, maxCount)
	delayMs, delayFits := integer(spec, "delay_ms", 0, 0, maxDelayMs)
	if !countFits || !delayFits || len(spec.GetPrompt()) > maxPromptBytes || spec.GetAgent() != agents[0].Name {
		refusal := problem(codes.InvalidArgument, "INVALID_REQUEST", "go_echo takes a prompt of at most 512 bytes, "+
			"count from 1 to 1000 and delay_ms from 0 to 1000")
		say(&runnerv1.EventBatch{Outcome: &runnerv1.Outcome{Kind: &runnerv1.Outcome_Rejected{Rejected: refusal.Proto()}}})
		return
	}
	for n := 1; n <= count; n++ {
		message := &typesv1.Message{MessageId: strconv.Itoa(n), Role: typesv1.Role_ROLE_AGENT,
			Parts: []*typesv1.Part{{Content: &typesv1.Part_Text{Text: spec.Prompt}}}}
		if !say(event(&taskv1.TaskEvent{Payload: &taskv1.TaskEvent_Message{Message: message}})) {
			return
		}
		time.Sleep(time.Duration(delayMs) * time.Millisecond)
	}
	result := &taskv1.TaskResult{Text: spec.Prompt}
	say(&runnerv1.EventBatch{Outcome: &runnerv1.Outcome{Kind: &runnerv1.Outcome_Completed{Completed: result}}})
}

// integer reads a whole number from the parameters; false if it is there but is none from least to most.
func integer(spec *taskv1.TaskSpec, name string, absent, least, most float64) (int, bool) {
	value, given := spec.GetParameters().GetFields()[name]
	if !given {
		return int(absent), true
	}
	number, isNumber := value.GetKind().(*structpb.Value_NumberValue)
	if !isNumber || number.NumberValue != math.Trunc(number.NumberValue) {
		return 0, false
	}
	return int(number.NumberValue), number.NumberValue >= least && number.NumberValue <= most
}
