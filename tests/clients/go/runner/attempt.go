package main

import (
	runnerv1 "agentmesh/api/runner/v1"
	taskv1 "agentmesh/api/task/v1"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type routerStream = grpc.BidiStreamingServer[runnerv1.ExecuteTasksRequest, runnerv1.ExecuteTasksResponse]

// offered is attempt.sent from being offered to a router until that adopts the attempt.
const offered = 1 << 62

// attempt holds what was said until it is durable: held[0] has offset acked, and each batch is one offset.
type attempt struct {
	task        *runnerv1.Assignment
	held        []*runnerv1.EventBatch
	acked, sent int64
	over        bool         // its outcome was said, or nobody waits for one
	router      routerStream // the stream that assigned it or was offered it
}

// say adds an event or the outcome; false means that the attempt is over.
func (a *attempt) say(batch *runnerv1.EventBatch) bool {
	if !a.over {
		batch.TaskId, batch.Attempt, batch.FirstOffset = a.task.TaskId, a.task.Attempt, a.acked+int64(len(a.held))
		a.held, a.over = append(a.held, batch), batch.Outcome != nil
	}
	return !a.over
}

// event makes a batch of one event.
func event(said *taskv1.TaskEvent) *runnerv1.EventBatch {
	said.Time = timestamppb.Now()
	list, err := proto.Marshal(&taskv1.EventList{Events: []*taskv1.TaskEvent{said}})
	if err != nil {
		panic(err) // only text that is not UTF-8 can't be written, and what came by protobuf is
	}
	return &runnerv1.EventBatch{Events: list}
}

// stopped makes the outcome of an attempt that a router stopped.
func stopped(reason runnerv1.StopAttempt_Reason) *runnerv1.EventBatch {
	outcome := &runnerv1.Outcome{Kind: &runnerv1.Outcome_Canceled_{Canceled: &runnerv1.Outcome_Canceled{}}}
	if reason == runnerv1.StopAttempt_REASON_DEADLINE {
		overdue := problem(codes.DeadlineExceeded, "DEADLINE_EXCEEDED", "the task's time is up")
		outcome = &runnerv1.Outcome{Kind: &runnerv1.Outcome_Failed{Failed: overdue.Proto()}, NonRetryable: true}
	}
	return &runnerv1.EventBatch{Outcome: outcome}
}

func changed(change *taskv1.StateChanged) *taskv1.TaskEvent {
	return &taskv1.TaskEvent{Payload: &taskv1.TaskEvent_StateChanged{StateChanged: change}}
}

// ending makes the terminal event of an attempt that was not stopped.
func ending(outcome *runnerv1.Outcome) *taskv1.TaskEvent {
	if refusal := outcome.GetRejected(); refusal != nil {
		return changed(&taskv1.StateChanged{State: taskv1.TaskState_TASK_STATE_REJECTED, Error: refusal})
	}
	return changed(&taskv1.StateChanged{State: taskv1.TaskState_TASK_STATE_COMPLETED, Result: outcome.GetCompleted()})
}

// problem makes an error as every service of the mesh does, with a stable reason.
func problem(code codes.Code, reason, text string) *status.Status {
	plain := status.New(code, text)
	detailed, err := plain.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "agentmesh"})
	if err != nil {
		return plain
	}
	return detailed
}
