// Command runner serves RunnerService with one agent, go_echo, which says its prompt `count` times, `delay_ms` apart.
package main

import (
	"crypto/rand"
	"crypto/subtle"
	"flag"
	"log"
	"net"
	"os"
	"sync"
	"time"

	runnerv1 "agentmesh/api/runner/v1"
	taskv1 "agentmesh/api/task/v1"
	typesv1 "agentmesh/api/types/v1"
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

type routerStream = runnerv1.RunnerService_ExecuteTasksServer

// attempt keeps all that it said: a batch for each event and one for the outcome, so that indexes are offsets.
type attempt struct {
	*runnerv1.Assignment
	said   []*runnerv1.EventBatch
	acked  int64
	stop   *runnerv1.Outcome // what to say next and last
	router routerStream      // who hears it; nobody from a new hello on until that router adopts it
}

// runner's lock guards its attempts too. Sends may fail: then Recv does, and the next router hears it all.
type runner struct {
	runnerv1.UnimplementedRunnerServiceServer
	sync.Mutex
	incarnation string
	attempts    map[string]*attempt
}

func (r *runner) ExecuteTasks(router routerStream) error {
	token, shown := os.Getenv("AGENTMESH_RUNNER_EXPECT_TOKEN"), metadata.ValueFromIncomingContext(router.Context(), "authorization")
	if token == "" || len(shown) != 1 || subtle.ConstantTimeCompare([]byte(shown[0]), []byte("Bearer "+token)) != 1 {
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
	return status.Error(codes.Aborted, "the lease was lost")
}

func (r *runner) beat(router routerStream) {
	for number := int64(1); router.Context().Err() == nil; number++ {
		time.Sleep(2 * time.Second)
		r.Lock()
		_ = router.Send(&runnerv1.ExecuteTasksResponse{Heartbeat: &runnerv1.Heartbeat{Number: number}})
		r.Unlock()
	}
}

func (r *runner) receive(router routerStream, request *runnerv1.ExecuteTasksRequest) {
	for _, m := range request.Assignments {
		r.attempts[m.TaskId] = &attempt{Assignment: m, router: router}
		go r.echo(r.attempts[m.TaskId])
	}
	for _, m := range request.Adopted {
		if a := r.attempts[m.TaskId]; a != nil && a.Attempt == m.Attempt {
			a.router = router
			_ = router.Send(&runnerv1.ExecuteTasksResponse{Events: a.said[m.AckedOffset:]})
		}
	}
	for _, m := range request.Acks {
		if a := r.attempts[m.TaskId]; a != nil && a.Attempt == m.Attempt {
			if a.acked = m.Offset; a.said[a.acked-1].Outcome != nil {
				delete(r.attempts, m.TaskId)
			}
		}
	}
	for _, m := range request.Stops {
		if a := r.attempts[m.TaskId]; a != nil && a.Attempt == m.Attempt {
			if a.stop = stopped[m.Reason]; a.stop == nil {
				delete(r.attempts, m.TaskId)
			}
		}
	}
	if request.Lease != nil && request.Lease.Ttl == nil { // lost
		r.incarnation, r.attempts = rand.Text(), map[string]*attempt{}
	}
}

// stopped is how an attempt ends that is stopped for a reason; for others it ends without a word.
var stopped = map[runnerv1.StopAttempt_Reason]*runnerv1.Outcome{
	runnerv1.StopAttempt_REASON_CANCELED: {Kind: &runnerv1.Outcome_Canceled_{Canceled: &runnerv1.Outcome_Canceled{}}},
	runnerv1.StopAttempt_REASON_DEADLINE: {NonRetryable: true, Kind: &runnerv1.Outcome_Failed{
		Failed: status.New(codes.DeadlineExceeded, "the task ran out of time").Proto()}},
}

// say is false when the attempt has ended, or is not here any more.
func (r *runner) say(a *attempt, batch *runnerv1.EventBatch) bool {
	r.Lock()
	defer r.Unlock()
	if a.stop != nil {
		batch = &runnerv1.EventBatch{Outcome: a.stop}
	}
	batch.TaskId, batch.Attempt, batch.FirstOffset = a.TaskId, a.Attempt, int64(len(a.said))
	a.said = append(a.said, batch)
	if a.router != nil && r.attempts[a.TaskId] == a {
		_ = a.router.Send(&runnerv1.ExecuteTasksResponse{Events: []*runnerv1.EventBatch{batch}})
	}
	return batch.Outcome == nil && r.attempts[a.TaskId] == a
}

func (r *runner) echo(a *attempt) {
	parameters := a.Spec.GetParameters().GetFields()
	message := &typesv1.Message{Role: typesv1.Role_ROLE_AGENT,
		Parts: []*typesv1.Part{{Content: &typesv1.Part_Text{Text: a.Spec.GetPrompt()}}}}
	for range int(max(1, parameters["count"].GetNumberValue())) {
		event := &taskv1.TaskEvent{Time: timestamppb.Now(), Payload: &taskv1.TaskEvent_Message{Message: message}}
		list, err := proto.Marshal(&taskv1.EventList{Events: []*taskv1.TaskEvent{event}})
		if err != nil || !r.say(a, &runnerv1.EventBatch{Events: list}) {
			return
		}
		time.Sleep(time.Duration(parameters["delay_ms"].GetNumberValue()) * time.Millisecond)
	}
	result := &taskv1.TaskResult{Text: a.Spec.GetPrompt()}
	r.say(a, &runnerv1.EventBatch{Outcome: &runnerv1.Outcome{Kind: &runnerv1.Outcome_Completed{Completed: result}}})
}

func main() {
	listen := flag.String("listen", "127.0.0.1:50052", "host:port to serve on")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	r := &runner{incarnation: rand.Text(), attempts: map[string]*attempt{}}
	server := grpc.NewServer()
	runnerv1.RegisterRunnerServiceServer(server, r)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	log.Println("serving on", listener.Addr())
	log.Fatal(server.Serve(listener))
}
