// Command runner serves RunnerService with one agent, go_echo, knowing nothing of the mesh but its protos.
package main

import (
	"cmp"
	"context"
	"crypto/subtle"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	runnerv1 "agentmesh/api/runner/v1"
	taskv1 "agentmesh/api/task/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:50052", "host:port to serve on; with port 0 any free one")
	name := flag.String("name", "", "the runner's name, which no other has; go-runner@host:port if empty")
	flag.Parse()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	r := &runner{Cond: sync.Cond{L: &sync.Mutex{}}, name: cmp.Or(*name, "go-runner@"+listener.Addr().String()),
		attempts: map[string]*attempt{}}
	r.loseLease() // that of the process before
	go r.keepTime()
	expected := os.Getenv("AGENTMESH_RUNNER_EXPECT_TOKEN")
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := authenticate(ctx, info.FullMethod, expected); err != nil {
				return nil, err
			}
			return next(ctx, request)
		}),
		grpc.StreamInterceptor(func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := authenticate(stream.Context(), info.FullMethod, expected); err != nil {
				return err
			}
			return next(service, stream)
		}),
		grpc.MaxConcurrentStreams(100),
		// Routers ping every few seconds, which this server would otherwise take for an attack.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 8 * time.Second, Timeout: 5 * time.Second}),
	)
	runnerv1.RegisterRunnerServiceServer(server, r)
	ready := health.NewServer() // "" is SERVING from the start
	ready.SetServingStatus(runnerv1.RunnerService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(server, ready)
	reflection.Register(server)
	fmt.Println("serving on", listener.Addr())
	log.Fatal(server.Serve(listener))
}

// authenticate lets anyone ask for health, and else only who shows the expected token; anyone if none is expected.
func authenticate(ctx context.Context, method, expected string) error {
	if expected == "" || strings.HasPrefix(method, "/grpc.health.v1.Health/") {
		return nil
	}
	shown := strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), " ")
	if subtle.ConstantTimeCompare([]byte(shown), []byte("Bearer "+expected)) != 1 {
		return problem(codes.Unauthenticated, "UNAUTHENTICATED", "this runner takes calls from routers only").Err()
	}
	return nil
}

func (r *runner) ListAgents(context.Context, *runnerv1.ListAgentsRequest) (*runnerv1.ListAgentsResponse, error) {
	return &runnerv1.ListAgentsResponse{Agents: agents}, nil
}

// ExecuteTask adds what storage adds in a mesh: the beginning and the end of the log.
func (r *runner) ExecuteTask(request *runnerv1.ExecuteTaskRequest, stream runnerv1.RunnerService_ExecuteTaskServer) error {
	var sent int64
	var failure error
	say := func(batch *runnerv1.EventBatch) bool {
		if batch.Outcome != nil {
			batch = event(ending(batch.Outcome))
		}
		// The bytes of a list are the rest of a chunk.
		chunk := &taskv1.EventChunk{TaskId: "debug", Attempt: 1, FirstSequence: sent + 1}
		if failure = (proto.UnmarshalOptions{Merge: true}).Unmarshal(batch.Events, chunk); failure == nil {
			failure = stream.Send(&runnerv1.ExecuteTaskResponse{Chunks: []*taskv1.EventChunk{chunk}})
		}
		sent++
		return failure == nil
	}
	if say(event(changed(&taskv1.StateChanged{State: taskv1.TaskState_TASK_STATE_SUBMITTED}))) {
		echo(request.Spec, say)
	}
	return failure
}
