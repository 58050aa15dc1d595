// Command runner serves RunnerService with one agent, go_echo, which says its prompt `count` times, `delay_ms` apart.
package main

import (
	"crypto/rand"
	"crypto/subtle"
	"log"
	"net"
	"os"
	"sync"
	"time"

	runnerv1 "agentmesh/api/runner/v1"
	taskv1 "agentmesh/api/task/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// attempt keeps all that it said: a batch for each event and one for the outcome, so that indexes are offsets.
type attempt struct {
	*runnerv1.Assignment
	said          []*runnerv1.EventBatch
	acked, events int64                                     // how much is durable; how many events there will be
	outcome       *runnerv1.Outcome                         // what to say after them
	router        runnerv1.RunnerService_ExecuteTasksServer // nil until the one that is there now adopts the attempt
}

// runner serves one router at a time. Its lock guards attempts and sending; where Send fails, Recv does too.
type runner struct {
	runnerv1.UnimplementedRunnerServiceServer
	sync.Mutex
	token, incarnation string
	attempts           map[string]*attempt
}

func (r *runner) ExecuteTasks(router runnerv1.RunnerService_ExecuteTasksServer) error {
	shown := metadata.ValueFromIncomingContext(router.Context(), "authorization")
	if len(shown) != 1 || subtle.ConstantTimeCompare([]byte(shown[0]), []byte("Bearer "+r.token)) != 1 || r.token == "" {
		return status.Error(codes.Unauthenticated, "only routers may call this runner")
	}
	r.Lock()
	defer r.Unlock()
	hello := &runnerv1.RunnerHello{Name: "go-runner", Incarnation: r.incarnation, Slots: 4,
		Agents: []*taskv1.Agent{{Name: "go_echo", Version: "1", Description: "Says its prompt count times."}}}
	for id, a := range r.attempts {
		running := &runnerv1.Resume{TaskId: id, Attempt: a.Attempt, AckedOffset: a.acked, Tenant: a.Tenant}
		hello.Running, a.router = append(hello.Running, running), nil
	}
	_ = router.Send(&runnerv1.ExecuteTasksResponse{Hello: hello})
	go r.beat(router)
	for hello.Incarnation == r.incarnation {
		r.Unlock()
		request, err := router.Recv()
		r.Lock()
		if err != nil {
			return err
		}
		r.receive(router, request)
	}
	return nil // the lease is lost: the router connects anew
}

func (r *runner) beat(router runnerv1.RunnerService_ExecuteTasksServer) {
	for number := int64(1); router.Context().Err() == nil; number++ {
		time.Sleep(2 * time.Second)
		r.Lock()
		_ = router.Send(&runnerv1.ExecuteTasksResponse{Heartbeat: &runnerv1.Heartbeat{Number: number}})
		r.Unlock()
	}
}

func (r *runner) receive(router runnerv1.RunnerService_ExecuteTasksServer, request *runnerv1.ExecuteTasksRequest) {
	for _, m := range request.Assignments {
		count := max(1, m.Spec.GetParameters().GetFields()["count"].GetNumberValue())
		done := &runnerv1.Outcome_Completed{Completed: &taskv1.TaskResult{Text: m.Spec.GetPrompt()}}
		a := &attempt{Assignment: m, events: int64(count), outcome: &runnerv1.Outcome{Kind: done}, router: router}
		r.attempts[m.TaskId] = a
		go r.step(a)
	}
	for _, m := range request.Adopted {
		if a := r.attempts[m.TaskId]; a != nil && a.Attempt == m.Attempt {
			a.router = router
			_ = router.Send(&runnerv1.ExecuteTasksResponse{Events: a.said[m.AckedOffset:]})
		}
	}
	for _, m := range request.Acks {
		if a := r.attempts[m.TaskId]; a != nil && a.Attempt == m.Attempt {
			if a.acked = m.Offset; a.said[m.Offset-1].Outcome != nil {
				delete(r.attempts, m.TaskId)
			}
		}
	}
	for _, m := range request.Stops {
		if a := r.attempts[m.TaskId]; a != nil && a.Attempt == m.Attempt {
			if a.events, a.outcome = 0, stopped[m.Reason]; a.outcome == nil {
				delete(r.attempts, m.TaskId)
			}
		}
	}
	if request.Lease != nil && request.Lease.Ttl == nil { // it is lost
		r.incarnation, r.attempts = "go-runner/"+rand.Text(), map[string]*attempt{}
	}
}

// stopped is what attempts end with that are stopped for a reason; for others they fall silent.
var stopped = map[runnerv1.StopAttempt_Reason]*runnerv1.Outcome{
	runnerv1.StopAttempt_REASON_CANCELED: {Kind: &runnerv1.Outcome_Canceled_{Canceled: &runnerv1.Outcome_Canceled{}}},
	runnerv1.StopAttempt_REASON_DEADLINE: {NonRetryable: true, Kind: &runnerv1.Outcome_Failed{
		Failed: status.New(codes.DeadlineExceeded, "the task ran out of time").Proto()}},
}

// step says the next event or the outcome, unless the attempt was taken away.
func (r *runner) step(a *attempt) {
	r.Lock()
	defer r.Unlock()
	batch := &runnerv1.EventBatch{TaskId: a.TaskId, Attempt: a.Attempt, FirstOffset: int64(len(a.said)), Outcome: a.outcome}
	if batch.FirstOffset < a.events && r.attempts[a.TaskId] == a {
		delta := &taskv1.TaskEvent_TextDelta{TextDelta: &taskv1.TextDelta{Text: a.Spec.GetPrompt()}}
		events := []*taskv1.TaskEvent{{Time: timestamppb.Now(), Payload: delta}}
		batch.Events, _ = proto.Marshal(&taskv1.EventList{Events: events}) // can't fail: the text came by protobuf
		batch.Outcome = nil
		delayMs := min(1000, a.Spec.GetParameters().GetFields()["delay_ms"].GetNumberValue())
		time.AfterFunc(time.Duration(delayMs)*time.Millisecond, func() { r.step(a) })
	}
	if a.said = append(a.said, batch); a.router != nil && r.attempts[a.TaskId] == a {
		_ = a.router.Send(&runnerv1.ExecuteTasksResponse{Events: []*runnerv1.EventBatch{batch}})
	}
}

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	r := &runner{incarnation: "go-runner/" + rand.Text(), attempts: map[string]*attempt{}}
	r.token = os.Getenv("AGENTMESH_RUNNER_EXPECT_TOKEN")
	server := grpc.NewServer()
	runnerv1.RegisterRunnerServiceServer(server, r)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	log.Fatal(server.Serve(listener))
}
