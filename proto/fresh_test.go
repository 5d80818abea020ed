package proto_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

var update = flag.Bool("update", false, "write the generated code anew")

// The generator is the one of the protobuf module in go.mod, so its version is
// that of the code it is compiled with.
func TestTheGeneratedCodeIsFresh(t *testing.T) {
	for _, name := range []string{"client", "bus"} {
		t.Run(name, func(t *testing.T) { checkFresh(t, name+".proto", name+"pb") })
	}
}

func checkFresh(t *testing.T, source, folder string) {
	generated := filepath.Join(folder, strings.TrimSuffix(source, ".proto")+".pb.go")
	compiler := protocompile.Compiler{
		Resolver:       &protocompile.SourceResolver{ImportPaths: []string{"."}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := compiler.Compile(context.Background(), source)
	if err != nil {
		t.Fatal(err)
	}
	request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{source},
		Parameter:      proto.String("module=nabat/proto/" + folder),
		ProtoFile:      []*descriptorpb.FileDescriptorProto{protoutil.ProtoFromFileDescriptor(files[0])},
	})
	if err != nil {
		t.Fatal(err)
	}
	run := exec.Command("go", "run", "google.golang.org/protobuf/cmd/protoc-gen-go")
	var problems bytes.Buffer
	run.Stdin, run.Stderr = bytes.NewReader(request), &problems
	out, err := run.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, &problems)
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil || response.Error != nil || len(response.File) != 1 {
		t.Fatalf("%v, %s, %d files", err, response.GetError(), len(response.File))
	}
	want := []byte(response.File[0].GetContent())
	if *update {
		if err := os.WriteFile(generated, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(generated); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not what %s makes (%v): run go generate ./proto", generated, source, err)
	}
}
